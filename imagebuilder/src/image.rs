//! What an image is: its input digest, its name and its tags. Pure.
