# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with the root directory of an image: one function for each, and the table of all."""
