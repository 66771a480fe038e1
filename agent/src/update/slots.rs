//! The slots: directories by version and digest, and the links `stable` and `trial`.
