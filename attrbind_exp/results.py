from attrbind_exp.commands.results import main

if __name__ == "__main__":
    main()
