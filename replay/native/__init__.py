"""The loop over hot rows that is compiled where a C compiler is there: its source, its build, and where it is looked for."""
