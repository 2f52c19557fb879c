from attrbind_exp.commands.run import start

if __name__ == "__main__":
    start()
