"""Who may come in and who may see what: accounts, passwords, sessions, the guard against guessing, access."""
