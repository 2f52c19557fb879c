from attrbind_exp.commands.parse import start

if __name__ == "__main__":
    start()
