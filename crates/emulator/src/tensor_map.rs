//! Tensor maps: which bytes a bulk tensor copy moves where.
