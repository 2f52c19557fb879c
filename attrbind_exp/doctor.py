from attrbind_exp.commands.doctor.command import start

if __name__ == "__main__":
    start()
