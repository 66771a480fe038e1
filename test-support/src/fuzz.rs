//! Inputs for fuzz targets: good texts with a few bytes changed.

/// How a good text is bent: which one, bytes put over others, and bytes put in between.
pub type Bend = (u8, Vec<(u16, u8)>, (u16, Vec<u8>));

/// Bends a text that is not empty.
///
/// # Panics
/// The text is empty and bytes are to be put over it.
pub fn bend(bytes: &mut Vec<u8>, (_, over, (place, between)): &Bend) {
    for (at, byte) in over {
        let length = bytes.len();
        bytes[usize::from(*at) % length] = *byte;
    }
    let place = usize::from(*place) % (bytes.len() + 1);
    bytes.splice(place..place, between.iter().copied());
}

/// One of `seeds` bent, or (as often as any one of them) bytes alone.
#[must_use]
pub fn bent(seeds: &[&str], how: &Bend) -> Vec<u8> {
    let Some(seed) = seeds.get(usize::from(how.0) % (seeds.len() + 1)) else {
        return how.2.1.clone();
    };
    let mut bytes = seed.as_bytes().to_vec();
    bend(&mut bytes, how);
    bytes
}
