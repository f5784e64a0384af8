//! reed-solomon-erasure as a peer, with its C SIMD: GF(2^8), the Vandermonde matrix of Backblaze.
use reed_solomon_erasure::galois_8::ReedSolomon;
use zos_bench_peers::{digest, serve, version, Request, Work};

fn prepare(request: &Request) -> Result<(Work, String), String> {
    let (k, m, length) = (
        request.number("k"),
        request.number("m"),
        request.number("shard_bytes"),
    );
    let lost = request.number("lost");
    let code = ReedSolomon::new(k, m).map_err(|error| error.to_string())?;
    let mut data = request.shards(k, m, length)?;
    let mut parity = data.split_off(k);
    code.encode_sep(&data, &mut parity)
        .map_err(|error| error.to_string())?;
    match request.work.as_str() {
        "erasure.encode" => {
            let wanted = digest(&parity);
            let work = move || {
                code.encode_sep(&data, &mut parity)
                    .map_err(|error| error.to_string())
            };
            Ok((Box::new(work), wanted))
        }
        "erasure.reconstruct" if (1..=m.min(k)).contains(&lost) => {
            let wanted = digest(&data[..lost]);
            let mut shards: Vec<(&'static mut [u8], bool)> = data
                .into_iter()
                .chain(parity)
                .enumerate()
                .map(|(at, shard)| (shard, at >= lost))
                .collect();
            for (shard, _) in &mut shards[..lost] {
                shard.fill(0);
            }
            code.reconstruct_data(&mut shards)
                .map_err(|error| error.to_string())?;
            if digest(shards[..lost].iter().map(|(shard, _)| shard)) != wanted {
                return Err("other bytes came back than were lost".to_owned());
            }
            let work = move || {
                for (_, present) in &mut shards[..lost] {
                    *present = false;
                }
                code.reconstruct_data(&mut shards)
                    .map_err(|error| error.to_string())
            };
            Ok((Box::new(work), wanted))
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
        "reed-solomon-erasure",
        &version("reed-solomon-erasure"),
        &works,
        &prepare,
    );
}
