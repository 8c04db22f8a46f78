"""The command line: argv in, exit status out.

main          commands and their arguments; the only reader of the environment
completion    the completion script for bash and zsh
send/         ``aiorelay send``: files, standard input and URLs through a relay
probe/        ``aiorelay probe``: what an upload API accepts
"""
