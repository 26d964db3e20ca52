//! What a machine without a GPU, and a binary without the feature, say.

use cachalot_cuda::{Error, Gpu};

#[test]
#[cfg(feature = "cuda")]
fn without_a_driver_opening_is_an_error_and_no_panic() {
    let devices = Gpu::devices();
    let opened = Gpu::open(0, 1 << 20);
    match devices {
        // A machine with GPUs: the number after the last one is named in the error.
        Ok(devices) => {
            assert!(opened.is_ok(), "{opened:?}");
            let message = Gpu::open(devices.len(), 1 << 20).unwrap_err().to_string();
            assert_eq!(message, format!("there is no GPU {0}: the driver lists {0}", devices.len()));
        }
        Err(error) => {
            assert!(matches!(error, Error::NoDriver { .. }), "{error}");
            assert!(error.to_string().starts_with("no CUDA driver: "), "{error}");
            assert_eq!(opened.unwrap_err().to_string(), error.to_string());
        }
    }
}

#[test]
#[cfg(not(feature = "cuda"))]
fn without_the_feature_every_way_to_a_gpu_is_an_error() {
    for error in [Gpu::open(0, 1).unwrap_err(), Gpu::emulated(1).unwrap_err(), Gpu::devices().unwrap_err()] {
        assert!(matches!(error, Error::NotBuilt), "{error}");
        assert!(error.to_string().contains("built without the feature `cuda`"), "{error}");
    }
    assert!(cachalot_cuda::MODULES.is_empty());
}
