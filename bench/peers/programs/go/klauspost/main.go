// klauspost/reedsolomon as a peer: one goroutine, shards in the layout that ours has.
package main

import (
	"errors"
	"io"
	"os"

	"github.com/klauspost/reedsolomon"

	"zos.local/peers/line"
)

func prepare(request line.Request) (line.Work, string, error) {
	k, m := request.Number("k", 0), request.Number("m", 0)
	shardBytes := request.Number("shard_bytes", 0)
	lost := request.Number("lost", 0)
	if k < 1 || m < 1 || k+m > 256 || shardBytes < 1 {
		return nil, "", errors.New("k, m and shard_bytes are out of range")
	}
	// Cauchy is the matrix that a systematic code of this shape has with the others; the speed is that of the default.
	encoder, err := reedsolomon.New(k, m, reedsolomon.WithMaxGoroutines(1), reedsolomon.WithCauchyMatrix(),
		reedsolomon.WithInversionCache(true))
	if err != nil {
		return nil, "", err
	}
	stride := shardBytes + request.Number("skew_bytes", line.SkewBytes)
	memory, err := line.Allocate((k + m) * stride)
	if err != nil {
		return nil, "", err
	}
	shards := make([][]byte, k+m)
	for at := range shards {
		shards[at] = memory[at*stride : at*stride+shardBytes : at*stride+shardBytes]
	}
	file, err := os.Open(request.Input)
	if err != nil {
		return nil, "", err
	}
	defer file.Close()
	for _, shard := range shards[:k] {
		if _, err := io.ReadFull(file, shard); err != nil {
			return nil, "", err
		}
	}
	if err := encoder.Encode(shards); err != nil {
		return nil, "", err
	}
	switch request.Work {
	case "erasure.encode":
		return func() error { return encoder.Encode(shards) }, line.Digest(shards[k:]...), nil
	case "erasure.reconstruct":
		if lost < 1 || lost > m || lost > k {
			return nil, "", errors.New("lost is out of range")
		}
		whole := make([][]byte, lost)
		copy(whole, shards[:lost])
		digest := line.Digest(whole...)
		again := func() error {
			for at, shard := range whole {
				shards[at] = shard[:0] // of no length: missing, and its memory is used again
			}
			return encoder.ReconstructData(shards)
		}
		for _, shard := range whole {
			clear(shard)
		}
		if err := again(); err != nil {
			return nil, "", err
		}
		if line.Digest(shards[:lost]...) != digest {
			return nil, "", errors.New("other bytes came back than were lost")
		}
		return again, digest, nil
	}
	return nil, "", errors.New("unknown work " + request.Work)
}

func main() {
	version := line.Version("github.com/klauspost/reedsolomon")
	line.Serve("klauspost", version, []string{"erasure.encode", "erasure.reconstruct"}, prepare)
}
