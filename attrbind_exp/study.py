from attrbind_exp.commands.study import main

if __name__ == "__main__":
    main()
