"""`python -m pretrain_core`, which `torchrun -m` needs."""

from pretrain_core.cli import main

if __name__ == "__main__":
    main()
