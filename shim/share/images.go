package share

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// layerID is what Docker calls containers, and its storage drivers layers.
var layerID = regexp.MustCompile(`^[0-9a-f]{64}$`)

// maxImages bounds what a damaged folder of Docker's can make of a start.
const maxImages = 256

// images finds where Docker, whose data folder engine is, mounted images for a
// container (--mount type=image). Each is a layer of its own that is named
// CONTAINER-IMAGE. With the containerd image store it is mounted at a place of
// that name; with a storage driver of Docker's at one with a random name, which
// only Docker's own records tell from the root of another container.
func images(engine, container string) []string {
	if !layerID.MatchString(container) {
		return nil
	}
	found := named(filepath.Join(engine, "rootfs"), "", container)
	records := filepath.Join(engine, "image")
	for _, layer := range named(records, "layerdb/mounts", container) {
		rest, _ := relative(layer, records)
		driver, _, _ := strings.Cut(rest, "/")
		for _, id := range mountIDs(layer) {
			where := filepath.Join(engine, driver, id, "merged")
			if driver == "vfs" {
				where = filepath.Join(engine, driver, "dir", id)
			}
			found = append(found, where)
		}
	}
	return found
}

// named returns what is called CONTAINER-… in the folder below of each folder
// in dir.
func named(dir, below, container string) []string {
	var found []string
	kinds, err := os.ReadDir(dir)
	if err != nil {
		return nil // no engine, or one that keeps images elsewhere
	}
	for _, kind := range kinds {
		folder := filepath.Join(dir, kind.Name(), below)
		entries, err := os.ReadDir(folder)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), container+"-") && len(found) < maxImages {
				found = append(found, filepath.Join(folder, e.Name()))
			}
		}
	}
	return found
}

// mountIDs returns the names of the layers that a record is about: several where
// the images' names begin alike, since a slash in a name makes a folder.
func mountIDs(record string) []string {
	var ids []string
	// What cannot be read names no image, and what is not named is refused.
	_ = filepath.WalkDir(record, func(name string, e fs.DirEntry, err error) error {
		if err != nil || len(ids) == maxImages {
			return fs.SkipAll
		}
		if e.Name() != "mount-id" || !e.Type().IsRegular() {
			return nil
		}
		content, err := os.ReadFile(name)
		if err == nil && layerID.Match(content) {
			ids = append(ids, string(content))
		}
		return nil
	})
	return ids
}
