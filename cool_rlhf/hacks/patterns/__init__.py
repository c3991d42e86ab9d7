"""What a pattern is: wordings, signs, shapes, ideas, and how they are written down."""
