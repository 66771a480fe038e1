//! Table tests of the engine on a virtual clock, driven through the same requests as clients send.

mod bench;
mod refreshes;
