//! The resource management guide, snippet by snippet, as the guide writes it.
//!
//! What differs is marked `differs:` where it stands. Helper functions that the guide leaves open are below it.
#![cfg(feature = "std")]
#![allow(dead_code, unused_variables, reason = "the guide's snippets show one thing each")]

#[cfg(feature = "cuda")]
use democratising::cuda;
use democratising::{DemoError, Device, DeviceId, MemoryPool, Result, Tensor, gc, tempfile};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The guide's paths are relative, and its pool is the process's: one test at a time, each in a directory of its own.
fn in_directory<T>(run: impl FnOnce(&Path) -> T) -> T {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let directory = tempfile::tempdir().unwrap();
    std::env::set_current_dir(directory.path()).unwrap();
    fs::write("data.txt", "1 2 3\n4 5 6\n").unwrap();
    fs::write("model.pt", "an older model").unwrap();
    let result = run(directory.path());
    std::env::set_current_dir("/").unwrap();
    MemoryPool::disable().unwrap();
    result
}

fn process(tensor: &Tensor) -> Result<()> {
    assert!(tensor.as_bytes().unwrap()[..100].iter().all(|&byte| byte == 0));
    Ok(())
}

// ---- RAII Pattern: Basic Resource Management ----

fn process_data() -> Result<()> {
    // File automatically closed when scope ends
    let file = File::open("data.txt")?;

    // Tensor memory automatically freed
    let tensor = Tensor::from_file(&file)?;

    // GPU memory automatically freed
    let gpu_tensor = tensor.to_device(&Device::cuda(0)?)?;

    Ok(())
} // All resources cleaned up here

#[test]
fn raii_basic_resource_management() {
    in_directory(|_| {
        match process_data() {
            Ok(()) => {}
            // A machine or build without that device says so, and nothing before it failed.
            Err(DemoError::DeviceUnavailable { device, .. }) => assert_eq!(device, DeviceId::Cuda(0)),
            Err(error) => panic!("{error}"),
        }
        let tensor = Tensor::from_file(&File::open("data.txt").unwrap()).unwrap();
        assert_eq!(tensor, Tensor::new(&[2, 3], vec![1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap());

        fs::remove_file("data.txt").unwrap();
        assert!(matches!(process_data(), Err(DemoError::Io { .. })), "`?` takes errors of files");
    });
}

// ---- RAII Pattern: Custom Resource Types ----

mod custom_resource_types {
    use super::*;

    pub struct ModelCheckpoint {
        pub file: File,
        pub path: PathBuf,
        pub temp_path: PathBuf,
    }

    impl Drop for ModelCheckpoint {
        fn drop(&mut self) {
            // Clean up temporary files
            if self.temp_path.exists() {
                let _ = fs::remove_file(&self.temp_path);
            }
        }
    }
}

#[test]
fn raii_custom_resource_types() {
    in_directory(|directory| {
        let (path, temp_path) = (directory.join("model.pt"), directory.join("model.tmp"));
        let file = File::create(&temp_path).unwrap();
        drop(custom_resource_types::ModelCheckpoint {
            file,
            path: path.clone(),
            temp_path: temp_path.clone(),
        });
        assert!(path.exists() && !temp_path.exists());

        // The crate's own does the same, and makes the file durable too.
        drop(democratising::fs::ModelCheckpoint::create("model.safetensors").unwrap());
        assert_eq!(fs::read_dir(directory).unwrap().count(), 2, "data.txt and model.pt");
    });
}

// ---- Memory Management: Tensor Memory ----

fn optimize_memory() -> Result<()> {
    // Stack allocation for small tensors
    let small_tensor = Tensor::new(&[2, 2], vec![1.0, 2.0, 3.0, 4.0])?;

    // Heap allocation for large tensors
    let large_tensor = Tensor::zeros(&[1000, 1000])?;

    // Explicit cleanup
    drop(large_tensor);

    // Continue processing with small_tensor
    Ok(())
}

#[test]
fn memory_tensor_memory() {
    in_directory(|_| {
        let before = MemoryPool::stats().in_use_bytes;
        optimize_memory().unwrap();
        assert_eq!(MemoryPool::stats().in_use_bytes, before);
        let large = Tensor::zeros(&[1000, 1000]).unwrap();
        assert!(MemoryPool::stats().in_use_bytes >= before + 4_000_000);
        drop(large);
        assert_eq!(MemoryPool::stats().in_use_bytes, before, "freed at once, not later");
    });
}

// ---- Memory Management: Memory Pools ----

fn use_memory_pool() -> Result<()> {
    // Configure memory pool
    MemoryPool::configure()
        .initial_size(1024 * 1024)
        .growth_factor(2.0)
        .max_size(1024 * 1024 * 1024)
        .enable()?;

    // Tensors will use pooled memory
    for _ in 0..1000 {
        let tensor = Tensor::zeros(&[100, 100])?;
        process(&tensor)?;
    } // Memory returned to pool

    Ok(())
}

#[test]
fn memory_memory_pools() {
    in_directory(|_| {
        let before = MemoryPool::stats().in_use_bytes;
        use_memory_pool().unwrap();
        let stats = MemoryPool::stats();
        assert_eq!(stats.in_use_bytes, before);
        assert!(
            stats.reserved_bytes <= 64 << 20,
            "1,000 tensors one after the other use the same memory: {stats:?}"
        );
        assert_eq!(stats.limit_bytes, 1 << 30);
        let error =
            Tensor::zeros(&[1 << 28]).and_then(|half| Ok((half, Tensor::zeros(&[1 << 10])?))).unwrap_err();
        let DemoError::OutOfMemory(report) = error else { panic!("{error}") };
        assert_eq!(report.limit_bytes, 1 << 30, "a GiB and a bit do not fit into a GiB");
    });
}

// ---- File System Resources: File Handling ----

fn handle_files() -> Result<()> {
    // Open file with automatic cleanup
    let file = File::open("model.pt")?;

    // Create temporary file
    let temp_file = tempfile::NamedTempFile::new()?;

    // Write data safely
    {
        let mut writer = BufWriter::new(&temp_file);
        serialize_model(&mut writer)?;
    } // writer flushed and closed here

    // Rename atomically
    temp_file.persist("model.pt")?;

    Ok(())
}

fn serialize_model(writer: &mut impl Write) -> Result<()> {
    Ok(writer.write_all(b"a newer model")?)
}

#[test]
fn files_file_handling() {
    in_directory(|_| {
        handle_files().unwrap();
        assert_eq!(fs::read("model.pt").unwrap(), b"a newer model");

        // The same with the crate's own rename, which survives a power loss and crosses file systems.
        let mut temp_file = tempfile::NamedTempFile::new().unwrap();
        temp_file.write_all(b"the newest model").unwrap();
        democratising::fs::persist(temp_file, "model.pt").unwrap();
        assert_eq!(fs::read("model.pt").unwrap(), b"the newest model");
    });
}

// ---- File System Resources: Directory Management ----

fn manage_directories() -> Result<()> {
    // Create directory structure
    let cache_dir = Path::new("cache");
    fs::create_dir_all(cache_dir)?;

    // Temporary directory
    let temp_dir = tempfile::Builder::new().prefix("training-").tempdir()?;

    // Use temporary directory
    let model_path = temp_dir.path().join("model.pt");
    save_checkpoint(&model_path)?;

    Ok(())
} // temp_dir automatically cleaned up

fn save_checkpoint(path: &Path) -> Result<()> {
    let weight = Tensor::zeros(&[8, 8])?;
    democratising::fs::ModelCheckpoint::create(path)?
        .add("weight", &weight)?
        .metadata("step", "100")?
        .commit()?;
    let c = democratising::fs::ModelCheckpoint::load(path)?;
    assert_eq!((c.get("weight")?, c.names(), c.metadata("step")), (weight, vec!["weight"], Some("100")));
    Ok(())
}

#[test]
fn files_directory_management() {
    in_directory(|directory| {
        manage_directories().unwrap();
        assert!(directory.join("cache").is_dir());
    });
}

// ---- Best Practices: Resource Cleanup ----

mod resource_cleanup {
    use super::*;

    pub struct ResourceHandle {
        pub data: Vec<u8>,
        pub file: File,
    }

    impl Drop for ResourceHandle {
        fn drop(&mut self) {
            // Cleanup code here
            let _ = self.file.write_all(&self.data);
        }
    }
}

fn process_large_data() -> Result<()> {
    let tensor = Tensor::zeros(&[10000, 10000])?;
    process(&tensor)?;
    drop(tensor); // Free memory early

    // Continue with other work
    Ok(())
}

#[test]
fn practices_resource_cleanup() {
    in_directory(|_| {
        let file = File::create("out").unwrap();
        drop(resource_cleanup::ResourceHandle { data: b"all of it".to_vec(), file });
        assert_eq!(fs::read("out").unwrap(), b"all of it");

        let before = MemoryPool::stats().in_use_bytes;
        process_large_data().unwrap();
        assert_eq!(MemoryPool::stats().in_use_bytes, before);
    });
}

// ---- Best Practices: Resource Limits ----

fn configure_limits() -> Result<()> {
    // Set memory pool limits
    MemoryPool::configure().max_size(8 * 1024 * 1024 * 1024).enable()?;

    // Set CUDA memory limits
    // differs: a machine without a device is no failure here; the line itself runs in `gpu_limits`.
    if Device::cuda(0).is_ok() {
        set_cuda_memory_limit()?;
    }

    Ok(())
}

#[cfg(feature = "cuda")]
fn set_cuda_memory_limit() -> Result<()> {
    cuda::set_memory_limit(0, 4 * 1024 * 1024 * 1024)?;
    Ok(())
}

#[cfg(not(feature = "cuda"))]
fn set_cuda_memory_limit() -> Result<()> {
    unreachable!("without the feature there is no device")
}

#[test]
fn practices_memory_limits() {
    in_directory(|_| {
        configure_limits().unwrap();
        assert_eq!(MemoryPool::stats().limit_bytes, 8 << 30);
    });
}

fn handle_out_of_memory() -> Result<()> {
    match allocate_large_tensor() {
        Ok(tensor) => process(&tensor),
        // differs: the error carries a report.
        Err(DemoError::OutOfMemory(_)) => {
            // Try to free some memory
            gc::collect()?;
            // Retry with smaller size
            allocate_smaller_tensor()
        }
        Err(e) => Err(e),
    }
}

fn allocate_large_tensor() -> Result<Tensor> {
    Tensor::zeros(&[10_000, 10_000])
}

fn allocate_smaller_tensor() -> Result<()> {
    process(&Tensor::zeros(&[1_000, 1_000])?)
}

/// Something that can be built again, kept while nobody needs its memory.
struct Cache(Mutex<Vec<Tensor>>);

impl gc::Reclaim for Cache {
    fn reclaimable_bytes(&self) -> u64 {
        self.0.lock().unwrap().iter().map(|tensor| tensor.byte_len() as u64).sum()
    }

    fn reclaim(&self, target_bytes: u64, until: gc::Deadline) -> u64 {
        let kept = std::mem::take(&mut *self.0.lock().unwrap());
        kept.iter().map(|tensor| tensor.byte_len() as u64).sum()
    }
}

#[test]
fn practices_resource_exhaustion() {
    in_directory(|_| {
        MemoryPool::configure().max_size(64 << 20).enable().unwrap();
        let DemoError::OutOfMemory(report) = allocate_large_tensor().unwrap_err() else { panic!() };
        assert_eq!((report.requested_bytes, report.limit_bytes), (400_000_000, 64 << 20));
        handle_out_of_memory().unwrap();

        // A tensor that would fit without the cache makes the cache give way, without a word in the program.
        let cached = (0..14).map(|_| Tensor::zeros(&[1 << 20]).unwrap()).collect();
        let cache = Arc::new(Cache(Mutex::new(cached)));
        let id = gc::register("cache", 0, Arc::clone(&cache) as Arc<dyn gc::Reclaim>);
        let large = Tensor::zeros(&[8 << 20]).unwrap();
        assert_eq!(large.byte_len(), 32 << 20);
        assert!(cache.0.lock().unwrap().is_empty());
        assert!(gc::unregister(id));
    });
}

// ---- Network Resources: Connection Management, Resource Pools ----

#[cfg(feature = "net")]
mod network {
    use democratising::net::{ConnectionPool, PooledConnection, Server, Socket};
    use democratising::{DemoError, Result};
    use std::io::{Read, Write};
    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    // differs: the address is told, since a test takes a port that is free.
    async fn handle_connections(bound: impl FnOnce(std::net::SocketAddr)) -> Result<()> {
        // TCP listener with automatic cleanup
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        bound(listener.local_addr()?);

        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(async move { handle_client(socket).await });
        }

        Ok(())
    }

    // differs: `mut`, without which `split` cannot be called.
    async fn handle_client(mut socket: TcpStream) -> Result<()> {
        let (reader, writer) = socket.split();

        // Process client request
        process_request(reader, writer).await?;

        Ok(())
    } // socket closed automatically

    /// One word, back in capitals.
    async fn process_request(
        mut reader: impl AsyncRead + Unpin,
        mut writer: impl AsyncWrite + Unpin,
    ) -> Result<()> {
        let mut word = [0; 5];
        reader.read_exact(&mut word).await?;
        writer.write_all(&word.to_ascii_uppercase()).await?;
        Ok(())
    }

    async fn asks_and_is_closed(address: std::net::SocketAddr) {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"hello").await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"HELLO");
    }

    #[tokio::test]
    async fn network_connection_management_over_plain_tokio() {
        let (tell, told) = tokio::sync::oneshot::channel();
        let serving = tokio::spawn(handle_connections(|address| tell.send(address).unwrap()));
        let address = told.await.unwrap();
        asks_and_is_closed(address).await;
        serving.abort();
        assert!(serving.await.unwrap_err().is_cancelled());
        assert!(TcpStream::connect(address).await.is_err(), "the listener is closed with its task");
    }

    #[tokio::test]
    async fn network_connection_management_over_a_server() {
        async fn handle_client(socket: Socket) -> Result<()> {
            let (reader, writer) = tokio::io::split(socket);
            process_request(reader, writer).await
        }

        let server = Server::bind("127.0.0.1:0").await.unwrap().max_connections(1000);
        let (address, shutdown) = (server.local_addr().unwrap(), server.shutdown_handle());
        let serving = tokio::spawn(server.serve(handle_client));
        asks_and_is_closed(address).await;
        shutdown.shutdown();
        assert_eq!(serving.await.unwrap().unwrap().accepted, 1);
    }

    // differs: the pool takes the address too, and the test's own.
    fn use_connection_pool(address: &str) -> Result<ConnectionPool> {
        let pool = ConnectionPool::new(address, 10)?;

        for _ in 0..100 {
            let mut conn = pool.get()?;
            process(&mut conn)?;
        } // Connections returned to pool

        Ok(pool)
    }

    fn process(conn: &mut PooledConnection) -> Result<()> {
        conn.write_all(b"hello")?;
        let mut answer = [0; 5];
        conn.read_exact(&mut answer)?;
        assert_eq!(&answer, b"HELLO");
        Ok(())
    }

    #[test]
    fn network_resource_pools() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let server = runtime.block_on(Server::bind("127.0.0.1:0")).unwrap();
        let (address, shutdown) = (server.local_addr().unwrap(), server.shutdown_handle());
        let serving = runtime.spawn(server.serve(|socket| async move {
            let (mut reader, mut writer) = tokio::io::split(socket);
            while process_request(&mut reader, &mut writer).await.is_ok() {}
            Ok(())
        }));
        let pool = use_connection_pool(&address.to_string()).unwrap();
        assert_eq!((pool.stats().served, pool.stats().connects), (100, 1));
        drop(pool);
        shutdown.shutdown();
        assert_eq!(runtime.block_on(serving).unwrap().unwrap().accepted, 1);
        assert!(matches!(ConnectionPool::new("server:port", 0), Err(DemoError::InvalidConfig { .. })));
    }
}

// ---- Best Practices: Performance Optimization ----

fn optimize_allocations() -> Result<()> {
    // Preallocate buffer
    let mut buffer = Vec::with_capacity(1000);

    for _ in 0..1000 {
        buffer.clear(); // Reuse allocation
        fill_buffer(&mut buffer)?;
        process_buffer(&buffer)?; // differs: `process` takes tensors above
    }

    Ok(())
}

fn fill_buffer(buffer: &mut Vec<f32>) -> Result<()> {
    buffer.extend((0..1000).map(|i| i as f32));
    Ok(())
}

fn process_buffer(buffer: &[f32]) -> Result<()> {
    let tensor = Tensor::new(&[10, 100], buffer)?;
    assert_eq!(tensor.as_slice::<f32>()?[999], 999.0);
    Ok(())
}

#[test]
fn practices_reuse() {
    in_directory(|_| optimize_allocations().unwrap());
}

// ---- GPU Resources, on the software driver and on a real one ----

#[cfg(all(feature = "cuda", target_os = "linux"))]
#[path = "softcuda/harness.rs"]
mod harness;

#[cfg(all(feature = "cuda", target_os = "linux"))]
mod gpu {
    use super::harness::{EAGER, LAZY, Mode, RANGES, in_modes};
    use super::*;

    /// The guide asks for a gigabyte.
    const LARGE: Mode = Mode("3 GiB", &[("SOFTCUDA_MEM_MIB", "3072")]);

    fn manage_gpu_memory() -> Result<()> {
        // Configure CUDA memory pool
        cuda::MemoryPool::configure().initial_size(1024 * 1024 * 1024).enable()?;

        // Allocate on GPU
        // differs: zeros on a device is `zeros_on`.
        let gpu_tensor = Tensor::zeros_on(&[1000, 1000], &Device::cuda(0)?)?;

        // Automatically freed when dropped
        drop(gpu_tensor);

        // Check memory usage
        let info = cuda::get_memory_info(0)?;
        println!("Free memory: {} bytes", info.free);

        Ok(())
    }

    #[test]
    fn gpu_memory_management() {
        in_modes("gpu::gpu_memory_management", &[LARGE], || {
            manage_gpu_memory().unwrap();
            let info = cuda::get_memory_info(0).unwrap();
            assert_eq!((info.reserved, info.in_use), (1 << 30, 0));
            assert!(info.free <= info.total - (1 << 30));
            cuda::MemoryPool::disable(0).unwrap();
            assert_eq!(cuda::get_memory_info(0).unwrap().reserved, 0);
        });
    }

    fn manage_multiple_gpus() -> Result<()> {
        let devices = Device::cuda_all()?;

        // Allocate across GPUs
        let mut tensors = Vec::new();
        // differs: the index is not used.
        for device in devices.iter() {
            let tensor = Tensor::zeros_on(&[1000, 1000], device)?;
            tensors.push(tensor);
        }
        assert_eq!(tensors.len(), devices.len());
        assert!(tensors.iter().zip(&devices).all(|(tensor, device)| tensor.device() == device));

        // Resources freed when tensors dropped
        Ok(())
    }

    #[test]
    fn gpu_multi_management() {
        in_modes("gpu::gpu_multi_management", &[EAGER, LAZY, RANGES], || {
            manage_multiple_gpus().unwrap();
            for ordinal in 0..Device::cuda_all().unwrap().len() as u32 {
                let info = cuda::get_memory_info(ordinal).unwrap();
                assert_eq!(info.in_use, 0);
                assert!(info.reserved >= 4_000_000, "it was there");
            }
        });
    }

    #[test]
    fn gpu_limits() {
        in_modes("gpu::gpu_limits", &[LARGE], || {
            set_cuda_memory_limit().unwrap();
            let info = cuda::get_memory_info(0).unwrap();
            assert_eq!(info.limit, info.total.min(4 << 30));
        });
    }

    #[test]
    fn gpu_tensors_are_freed_at_the_end_of_their_scope() {
        in_modes("gpu::gpu_tensors_are_freed_at_the_end_of_their_scope", &[EAGER, LAZY], || {
            in_directory(|_| {
                process_data().unwrap();
                assert_eq!(cuda::get_memory_info(0).unwrap().in_use, 0);
            });
        });
    }
}
