from attrbind_exp.commands.start import start

if __name__ == "__main__":
    start("score")
