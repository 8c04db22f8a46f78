"""The command line: argv to exit status.

main          commands and their arguments; reads the environment
completion    the completion script for bash and zsh
webhooks      list webhook events that were not accepted; send them again
send/         ``aiorelay send``: send files, standard input and URLs through a relay
probe/        ``aiorelay probe``: find out what an upload API accepts
"""
