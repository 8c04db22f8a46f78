"""The command line: argv to exit status.

main          commands and their arguments; reads the environment
completion    the completion script for bash and zsh
send/         ``aiorelay send``: send files, standard input and URLs through a relay
probe/        ``aiorelay probe``: find out what an upload API accepts
"""
