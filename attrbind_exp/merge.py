from attrbind_exp.commands.merge import main

if __name__ == "__main__":
    main()
