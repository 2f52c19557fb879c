from attrbind_exp.commands.attrbind import main

if __name__ == "__main__":
    main()
