# SPDX-License-Identifier: Apache-2.0
"""`python -m bootcd.daemon`."""

import sys

from .main import main

sys.exit(main())
