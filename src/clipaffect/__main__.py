"""``python -m clipaffect``."""

from clipaffect.cli.main import main

main()
