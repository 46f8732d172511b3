// Lists tars as the engines see them: with Go's archive/tar, which Docker, Podman and umoci use.
//
// Standard input is any number of tars, each behind its length in eight bytes, big-endian. For each
// there is a line `m` for every member, then `ok`, or `no` and why. What kinds of members an engine
// refuses is refused here (moby, pkg/archive, createTarFile).
package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"os"
)

const contentRead = 4096

func list(out io.Writer, content []byte) error {
	reader := tar.NewReader(bytes.NewReader(content))
	for {
		header, err := reader.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		switch header.Typeflag {
		case tar.TypeXGlobalHeader:
			continue
		case tar.TypeReg, tar.TypeLink, tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeDir, tar.TypeFifo:
		default:
			return fmt.Errorf("type %q", header.Typeflag)
		}
		start, err := io.ReadAll(io.LimitReader(reader, contentRead))
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "m %x %c %d %d %d %d %d %d %x %d %d %d\n", header.Name, header.Typeflag,
			header.Mode, header.Uid, header.Gid, header.Size, header.ModTime.Unix(),
			header.ModTime.Nanosecond(), header.Linkname, header.Devmajor, header.Devminor,
			crc32.ChecksumIEEE(start))
	}
}

func main() {
	in, out := bufio.NewReader(os.Stdin), bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for {
		var length uint64
		if binary.Read(in, binary.BigEndian, &length) != nil {
			return
		}
		content := make([]byte, length)
		if _, err := io.ReadFull(in, content); err != nil {
			return
		}
		if err := list(out, content); err != nil {
			fmt.Fprintf(out, "no %v\n", err)
		} else {
			fmt.Fprintln(out, "ok")
		}
	}
}
