"""`python -m dataset_conversion NAME -i DOWNLOAD`"""

import sys

from dataset_conversion.command import main

if __name__ == "__main__":
    sys.exit(main())
