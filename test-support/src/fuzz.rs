//! Inputs for fuzz targets: valid texts with a few bytes changed.

/// A mutation of a valid text: which one, bytes to overwrite, bytes to insert.
pub type Mutation = (u8, Vec<(u16, u8)>, (u16, Vec<u8>));

/// Mutates a text that is not empty.
///
/// # Panics
/// The text is empty and bytes are to be overwritten.
pub fn mutate(bytes: &mut Vec<u8>, (_, over, (place, between)): &Mutation) {
    for (at, byte) in over {
        let length = bytes.len();
        bytes[usize::from(*at) % length] = *byte;
    }
    let place = usize::from(*place) % (bytes.len() + 1);
    bytes.splice(place..place, between.iter().copied());
}

/// One of `seeds` mutated, or (as often as any of them) random bytes.
#[must_use]
pub fn mutated(seeds: &[impl AsRef<[u8]>], mutation: &Mutation) -> Vec<u8> {
    let Some(seed) = seeds.get(usize::from(mutation.0) % (seeds.len() + 1)) else {
        return mutation.2.1.clone();
    };
    let mut bytes = seed.as_ref().to_vec();
    mutate(&mut bytes, mutation);
    bytes
}
