//! Which release this box wants now, pure: view → decision. Waves, windows, hold, pin, floor, skip list.
