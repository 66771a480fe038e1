//! Rolling a fleet onto an image: `plan` decides, `watch` decides, `drive` is the only loop.
