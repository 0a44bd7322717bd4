// What Docker makes of its files, by the libraries that it is made of: no engine is needed.
//
//	docker-files compose FILE    a compose file as JSON: read, checked against the schema, filled in
//	docker-files context FOLDER  the files that .dockerignore lets into a build, one a line
package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

func main() {
	show := map[string]func(string) error{"compose": composeFile, "context": buildContext}[os.Args[1]]
	if err := show(os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func composeFile(path string) error {
	options, err := cli.NewProjectOptions([]string{path})
	if err != nil {
		return err
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return err
	}
	text, err := project.MarshalJSON()
	if err != nil {
		return err
	}
	fmt.Println(string(text))
	return nil
}

func buildContext(folder string) error {
	rules, err := os.Open(filepath.Join(folder, ".dockerignore"))
	if err != nil {
		return err
	}
	defer rules.Close()
	patterns, err := ignorefile.ReadAll(rules)
	if err != nil {
		return err
	}
	matcher, err := patternmatcher.New(patterns)
	if err != nil {
		return err
	}
	return filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		relative, err := filepath.Rel(folder, path)
		if err != nil {
			return err
		}
		leftOut, err := matcher.MatchesOrParentMatches(relative)
		if err == nil && !leftOut {
			fmt.Println(relative)
		}
		return err
	})
}
