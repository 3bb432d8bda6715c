# SPDX-License-Identifier: Apache-2.0
"""How fast and how small: ratios against the bare pipeline and, where installed, against cfsctl and mkcomposefs."""
