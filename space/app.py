from attrbind_exp.commands.start import start

start("demo")
