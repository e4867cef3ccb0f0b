"""Pure tensor maths, shapes in the docstring, no trainer in sight.

Shapes: B sequences, T tokens, V vocabulary, H hidden size, N labelled positions.
"""
