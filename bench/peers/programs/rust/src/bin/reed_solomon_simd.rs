//! reed-solomon-simd as a peer: Leopard's FFT over GF(2^16), encoder and decoder used again and again.
use reed_solomon_simd::{ReedSolomonDecoder, ReedSolomonEncoder};
use zos_bench_peers::{digest, serve, version, Request, Work};

fn text(error: reed_solomon_simd::Error) -> String {
    error.to_string()
}

fn prepare(request: &Request) -> Result<(Work, String), String> {
    let (k, m, length) = (
        request.number("k"),
        request.number("m"),
        request.number("shard_bytes"),
    );
    let lost = request.number("lost");
    let mut data = request.shards(k, m, length)?;
    let mut parity = data.split_off(k);
    let mut encoder = ReedSolomonEncoder::new(k, m, length).map_err(text)?;
    for shard in &data {
        encoder.add_original_shard(shard).map_err(text)?;
    }
    let result = encoder.encode().map_err(text)?;
    for (shard, made) in parity.iter_mut().zip(result.recovery_iter()) {
        shard.copy_from_slice(made);
    }
    drop(result);
    match request.work.as_str() {
        "erasure.encode" => {
            let wanted = digest(&parity);
            let work = move || {
                for shard in &data {
                    encoder.add_original_shard(shard).map_err(text)?;
                }
                let result = encoder.encode().map_err(text)?;
                std::hint::black_box(result.recovery(0));
                Ok(())
            };
            Ok((Box::new(work), wanted))
        }
        "erasure.reconstruct" if (1..=m.min(k)).contains(&lost) => {
            let wanted = digest(&data[..lost]);
            let mut decoder = ReedSolomonDecoder::new(k, m, length).map_err(text)?;
            let mut again = move |check: bool| -> Result<String, String> {
                for (at, shard) in data.iter().enumerate().skip(lost) {
                    decoder.add_original_shard(at, shard).map_err(text)?;
                }
                for (at, shard) in parity.iter().enumerate().take(lost) {
                    decoder.add_recovery_shard(at, shard).map_err(text)?;
                }
                let result = decoder.decode().map_err(text)?;
                let restored = (0..lost).filter_map(|at| result.restored_original(at));
                Ok(if check {
                    digest(restored)
                } else {
                    restored.count().to_string()
                })
            };
            if again(true)? != wanted {
                return Err("other bytes came back than were lost".to_owned());
            }
            Ok((Box::new(move || again(false).map(drop)), wanted))
        }
        _ => Err(format!(
            "unknown work {}, or lost is out of range",
            request.work
        )),
    }
}

fn main() {
    let works = ["erasure.encode", "erasure.reconstruct"];
    serve(
        "reed-solomon-simd",
        &version("reed-solomon-simd"),
        &works,
        &prepare,
    );
}
