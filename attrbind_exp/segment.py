from attrbind_exp.commands.segment import start

if __name__ == "__main__":
    start()
