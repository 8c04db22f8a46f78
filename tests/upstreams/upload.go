// An upload API on Go's net/http: upload FD STORE.
//
// Optional variables: MAX_BODY (bytes, for MaxBytesReader), REQUEST (ReadTimeout, seconds), CERTIFICATE (a PEM with
// chain and key: it speaks TLS).
package main

import (
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

func upload(w http.ResponseWriter, r *http.Request) {
	if limit, err := strconv.ParseInt(os.Getenv("MAX_BODY"), 10, 64); err == nil {
		r.Body = http.MaxBytesReader(w, r.Body, limit)
	}
	if err := r.ParseMultipartForm(32 << 20); err != nil {
		status := http.StatusBadRequest
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			status = http.StatusRequestEntityTooLarge
		}
		http.Error(w, err.Error(), status)
		return
	}
	file, header, err := r.FormFile("somefile")
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	path := filepath.Join(os.Args[2], filepath.Base(header.Filename))
	if err := store(path, file); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	fields := map[string]string{}
	for name, values := range r.MultipartForm.Value {
		fields[name] = values[0]
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{"status": "done", "path": path, "fields": fields})
}

func store(path string, content io.Reader) error {
	target, err := os.Create(path)
	if err != nil {
		return err
	}
	defer target.Close()
	_, err = io.Copy(target, content)
	return err
}

func main() {
	descriptor, err := strconv.Atoi(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.FileListener(os.NewFile(uintptr(descriptor), "listener"))
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/upload", upload)
	server := http.Server{ReadHeaderTimeout: 10 * time.Second}
	if seconds, err := strconv.ParseFloat(os.Getenv("REQUEST"), 64); err == nil {
		server.ReadTimeout = time.Duration(seconds * float64(time.Second))
	}
	if certificate := os.Getenv("CERTIFICATE"); certificate != "" {
		log.Fatal(server.ServeTLS(listener, certificate, certificate))
	}
	log.Fatal(server.Serve(listener))
}
