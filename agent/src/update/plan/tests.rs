//! Which release a box wants: whole rules as tables.
