from attrbind_exp.tracking.dashboard import main

if __name__ == "__main__":
    main()
