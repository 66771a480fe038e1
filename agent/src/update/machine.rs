//! The phases of an attempt, pure: Phase × Event → (Phase, Action). Drawn in `docs/agent.md` with the method names on its edges.
