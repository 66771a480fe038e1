//! Table tests of the engine on a virtual clock, driven through the same requests as clients send.

mod activities;
mod bench;
mod bounds;
mod calls;
mod hooks;
mod members;
mod refreshes;
mod setbacks;
mod switches;
