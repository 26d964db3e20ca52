//! The argument struct of a kernel.

use bytemuck::Pod;

/// An argument struct, declared with [`params!`](macro@crate::params).
pub trait Params: Pod {}

/// Declares the argument struct of a kernel, with its size and the offset of each field: the same numbers that `PARAMS_SIZE` and
/// `PARAMS_FIELD` of `kernels/common/params.h` state on the other side.
///
/// A wrong number does not compile:
///
/// ```compile_fail
/// use cachalot_cuda::{Address, params};
/// params! {
///     /// Arguments of `scale_f32`.
///     pub struct ScaleParams: 16 {
///         /// `[num_elements]`
///         pub x: Address = 0,
///         /// Number of elements.
///         pub num_elements: i32 = 12,
///         /// Factor.
///         pub scale: f32 = 12,
///     }
/// }
/// ```
///
/// Padding does not compile either; write it as a field.
///
/// ```
/// use cachalot_cuda::{Address, params};
/// params! {
///     /// Arguments of `scale_f32`.
///     pub struct ScaleParams: 16 {
///         /// `[num_elements]`
///         pub x: Address = 0,
///         /// Number of elements.
///         pub num_elements: i32 = 8,
///         /// Factor.
///         pub scale: f32 = 12,
///     }
/// }
/// let params = ScaleParams { x: Address::NULL, num_elements: 3, scale: 0.5 };
/// assert_eq!(cachalot_cuda::bytemuck::bytes_of(&params)[8], 3);
/// ```
#[macro_export]
macro_rules! params {
    (
        $(#[$attribute:meta])*
        $visibility:vis struct $name:ident: $size:literal {
            $( $(#[$field_attribute:meta])* $field_visibility:vis $field:ident: $type:ty = $offset:literal ),+ $(,)?
        }
    ) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, $crate::bytemuck::Pod, $crate::bytemuck::Zeroable)]
        #[bytemuck(crate = "::cachalot_cuda::bytemuck")]
        #[repr(C)]
        $visibility struct $name {
            $( $(#[$field_attribute])* $field_visibility $field: $type ),+
        }
        const _: () = {
            assert!(size_of::<$name>() == $size, concat!(stringify!($name), ": the size is not ", $size));
            $( assert!(
                ::core::mem::offset_of!($name, $field) == $offset,
                concat!(stringify!($name), "::", stringify!($field), ": the offset is not ", $offset)
            ); )+
        };
        impl $crate::Params for $name {}
    };
}
