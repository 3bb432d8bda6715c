# SPDX-License-Identifier: Apache-2.0
"""EROFS images as composefs writes them: `layout` has the structures, `writer` makes an image from a tree, `reader`
makes a tree from an image."""
