// oasisprotocol/curve25519-voi as a peer: ZIP-215 verification, single and in one batch, as CometBFT uses it.
package main

import (
	"errors"
	"os"

	"github.com/oasisprotocol/curve25519-voi/primitives/ed25519"

	"zos.local/peers/line"
)

var options = &ed25519.Options{Verify: ed25519.VerifyOptionsZIP_215}

type signed struct {
	key       ed25519.PublicKey
	expanded  *ed25519.ExpandedPublicKey
	signature []byte
	message   []byte
}

func read(request line.Request) ([]signed, error) {
	count, length := request.Number("count", 0), request.Number("message_bytes", 0)
	data, err := os.ReadFile(request.Input)
	if err != nil {
		return nil, err
	}
	each := ed25519.PublicKeySize + ed25519.SignatureSize + length
	if count < 1 || len(data) != count*each {
		return nil, errors.New("the input is not count records of key, signature and message")
	}
	found := make([]signed, count)
	for at := range found {
		record := data[at*each : (at+1)*each]
		key := ed25519.PublicKey(record[:32])
		expanded, err := ed25519.NewExpandedPublicKey(key)
		if err != nil {
			return nil, err
		}
		found[at] = signed{key, expanded, record[32:96], record[96:]}
	}
	return found, nil
}

var errRefused = errors.New("a good signature was refused")

func prepare(request line.Request) (line.Work, string, error) {
	all, err := read(request)
	if err != nil {
		return nil, "", err
	}
	expanded := request.Number("cached", 0) == 1
	bad := append([]byte{}, all[0].signature...)
	bad[0] ^= 1
	if ed25519.VerifyWithOptions(all[0].key, all[0].message, bad, options) {
		return nil, "", errors.New("a bad signature was accepted")
	}
	switch request.Work {
	case "sign.single":
		return func() error {
			for _, one := range all {
				good := false
				if expanded {
					good = ed25519.VerifyExpandedWithOptions(one.expanded, one.message, one.signature, options)
				} else {
					good = ed25519.VerifyWithOptions(one.key, one.message, one.signature, options)
				}
				if !good {
					return errRefused
				}
			}
			return nil
		}, "", nil
	case "sign.batch":
		return func() error {
			batch := ed25519.NewBatchVerifierWithCapacity(len(all))
			for _, one := range all {
				if expanded {
					batch.AddExpandedWithOptions(one.expanded, one.message, one.signature, options)
				} else {
					batch.AddWithOptions(one.key, one.message, one.signature, options)
				}
			}
			if good, _ := batch.Verify(nil); !good {
				return errRefused
			}
			return nil
		}, "", nil
	}
	return nil, "", errors.New("unknown work " + request.Work)
}

func main() {
	version := line.Version("github.com/oasisprotocol/curve25519-voi")
	line.Serve("curve25519-voi", version, []string{"sign.single", "sign.batch"}, prepare)
}
