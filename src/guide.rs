//! How to hold resources and give them back: the guide, in four chapters. Every snippet runs as a test.
//!
//! 1. [Resource management](resource_management): who owns what, and when it goes back.
//! 2. [Memory management](memory_management): tensors, pools, the heap, devices.
//! 3. [Error handling](error_handling): what can fail, what is said, what to do.
//! 4. [System integration](system_integration): limits, pressure, servers, other languages.
//!
//! The program `examples/train_and_serve` lives through all of it.

#![forbid(unsafe_code)]

pub mod resource_management {
    //! Who owns what, and when it goes back.
    //!
    #![doc = include_str!("guide/resource_management.svg")]
    #![doc = ""]
    #![doc = include_str!("guide/resource_management.md")]
}

pub mod memory_management {
    //! Tensors, pools, the heap and devices.
    //!
    #![doc = include_str!("guide/memory_management.svg")]
    #![doc = ""]
    #![doc = include_str!("guide/memory_management.md")]
}

pub mod error_handling {
    //! What can fail, what is said then, and what to do.
    //!
    #![doc = include_str!("guide/error_handling.svg")]
    #![doc = ""]
    #![doc = include_str!("guide/error_handling.md")]
}

pub mod system_integration {
    //! The limits of the machine, its pressure, and everything around the program.
    //!
    #![doc = include_str!("guide/system_integration.svg")]
    #![doc = ""]
    #![doc = include_str!("guide/system_integration.md")]
}
