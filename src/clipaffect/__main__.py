"""``python -m clipaffect``."""

from clipaffect.cli import main

main()
