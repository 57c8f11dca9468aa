"""`python -m train` is `ecg-train`."""

from train.cli import main

main()
