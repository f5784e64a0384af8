// Package line is the peer's side of docs/spec/bench-peer.md: lines in, lines out.
package line

import (
	"bufio"
	"fmt"
	"hash/crc32"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// SkewBytes is added to the stride of shards: at powers of two they alias in the caches. Ours has the same layout.
const SkewBytes = 4160

// HugeBytes is from where on ours has huge pages (native/buffer_pool.py), and so has everybody (BENCH-PEER-8).
const HugeBytes = 2 << 20

// Work is something that is ready to be done once.
type Work func() error

// Missing says that this peer cannot do what is asked, which is no fault.
type Missing string

func (reason Missing) Error() string { return string(reason) }

// Request is what to get ready for.
type Request struct {
	Work   string
	Input  string
	values map[string]int
}

// Number returns a whole number of the request, or otherwise.
func (request Request) Number(key string, otherwise int) int {
	if value, given := request.values[key]; given {
		return value
	}
	return otherwise
}

// Version of a module that is linked into this program.
func Version(module string) string {
	if information, ok := debug.ReadBuildInfo(); ok {
		for _, dependency := range information.Deps {
			if dependency.Path == module {
				return strings.TrimPrefix(dependency.Version, "v")
			}
		}
	}
	return "unknown"
}

// Allocate takes memory on a page boundary, of huge pages where ours are, and touches it.
func Allocate(bytes int) ([]byte, error) {
	memory, err := syscall.Mmap(-1, 0, bytes+HugeBytes, syscall.PROT_READ|syscall.PROT_WRITE,
		syscall.MAP_PRIVATE|syscall.MAP_ANON)
	if err != nil {
		return nil, fmt.Errorf("no memory for %d bytes: %w", bytes, err)
	}
	begin := int(-uintptr(unsafe.Pointer(&memory[0])) % HugeBytes)
	memory = memory[begin : begin+bytes : begin+bytes]
	if bytes >= HugeBytes {
		// A kernel without transparent huge pages says EINVAL; ours has small ones there, too.
		_ = syscall.Madvise(memory, syscall.MADV_HUGEPAGE)
	}
	for at := range memory {
		memory[at] = 1
	}
	return memory, nil
}

// Digest is the CRC-32 of the parts, one after the other.
func Digest(parts ...[]byte) string {
	crc := uint32(0)
	for _, part := range parts {
		crc = crc32.Update(crc, crc32.IEEETable, part)
	}
	return fmt.Sprintf("%08x", crc)
}

func faults() int64 {
	var used syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &used) != nil {
		return 0
	}
	return used.Minflt
}

func parse(words []string) (Request, error) {
	request := Request{Work: words[1], Input: words[2], values: map[string]int{}}
	for _, word := range words[3:] {
		key, text, _ := strings.Cut(word, "=")
		value, err := strconv.Atoi(text)
		if err != nil || value < 0 {
			return request, fmt.Errorf("%s is no number", word)
		}
		request.values[key] = value
	}
	return request, nil
}

// Serve answers until stdin closes. prepare makes a work ready and tells the digest of what it gives, or "".
func Serve(peer, version string, works []string, prepare func(Request) (Work, string, error)) {
	var work Work
	out := bufio.NewWriter(os.Stdout)
	say := func(form string, values ...any) {
		fmt.Fprintf(out, form+"\n", values...)
		out.Flush()
	}
	say("hello 1 peer=%s version=%s works=%s", peer, version, strings.Join(works, ","))
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		words := strings.Fields(in.Text())
		switch {
		case len(words) >= 3 && words[0] == "prepare":
			work = nil
			request, err := parse(words)
			var digest string
			if err == nil {
				work, digest, err = prepare(request)
			}
			if err == nil {
				err = work()
			}
			if err != nil {
				work = nil
			}
			if reason, missing := err.(Missing); missing {
				say("missing %s", string(reason))
			} else if err != nil {
				say("error %s", err)
			} else if digest != "" {
				say("ok digest=%s", digest)
			} else {
				say("ok")
			}
		case len(words) == 2 && words[0] == "run" && work != nil:
			count, err := strconv.Atoi(words[1])
			if err != nil {
				say("error %s is no number", words[1])
				continue
			}
			before, begin := faults(), time.Now()
			for at := 0; at < count && err == nil; at++ {
				err = work()
			}
			spent := time.Since(begin)
			if err != nil {
				say("error %s", err)
			} else {
				say("ok ns=%d faults=%d", spent.Nanoseconds(), faults()-before)
			}
		default:
			say("error not understood")
		}
	}
}
