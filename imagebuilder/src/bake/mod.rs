//! Baking an image: the visible list of steps, undo beside do.
