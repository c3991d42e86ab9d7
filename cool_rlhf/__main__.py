"""`python -m cool_rlhf` is the `cool-rlhf` command."""

from cool_rlhf.cli import main

main()
