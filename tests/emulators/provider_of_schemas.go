// A Terraform provider that knows the schemas of one and does nothing: what configurations are validated against where
// the real plugin cannot be had. Its name says whose schemas it reads from the folder that PROVIDER_SCHEMAS names.
package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tfprotov6/tf6server"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

type attribute struct {
	Type                         json.RawMessage
	Required, Optional, Computed bool
}

type block struct {
	Attributes map[string]attribute
	Blocks     map[string]struct {
		Many, Required bool
		Block          block
	}
}

// What the bundle leaves unsaid is not asked: every other method is the embedded nil.
type server struct {
	tfprotov6.ProviderServer
	schemas map[string]block
}

func (b block) schema() *tfprotov6.SchemaBlock {
	found := &tfprotov6.SchemaBlock{}
	for name, told := range b.Attributes {
		kind, err := tftypes.ParseJSONType(told.Type)
		if err != nil {
			panic(err)
		}
		found.Attributes = append(found.Attributes, &tfprotov6.SchemaAttribute{
			Name: name, Type: kind, Required: told.Required, Optional: told.Optional, Computed: told.Computed,
		})
	}
	for name, told := range b.Blocks {
		nested := &tfprotov6.SchemaNestedBlock{
			TypeName: name, Nesting: tfprotov6.SchemaNestedBlockNestingModeList, Block: told.Block.schema(),
		}
		if !told.Many {
			nested.MaxItems = 1
		}
		if told.Required {
			nested.MinItems = 1
		}
		found.BlockTypes = append(found.BlockTypes, nested)
	}
	return found
}

func (s server) GetMetadata(context.Context, *tfprotov6.GetMetadataRequest) (*tfprotov6.GetMetadataResponse, error) {
	return &tfprotov6.GetMetadataResponse{ServerCapabilities: &tfprotov6.ServerCapabilities{}}, nil
}

func (s server) GetProviderSchema(context.Context, *tfprotov6.GetProviderSchemaRequest) (*tfprotov6.GetProviderSchemaResponse, error) {
	text := func(name string) *tfprotov6.SchemaAttribute {
		return &tfprotov6.SchemaAttribute{Name: name, Type: tftypes.String, Optional: true}
	}
	found := &tfprotov6.GetProviderSchemaResponse{
		Provider: &tfprotov6.Schema{Block: &tfprotov6.SchemaBlock{
			Attributes: []*tfprotov6.SchemaAttribute{text("region"), text("project")},
		}},
		ResourceSchemas:   map[string]*tfprotov6.Schema{},
		DataSourceSchemas: map[string]*tfprotov6.Schema{},
	}
	for name, told := range s.schemas {
		if data, is := strings.CutPrefix(name, "data."); is {
			found.DataSourceSchemas[data] = &tfprotov6.Schema{Block: told.schema()}
		} else {
			found.ResourceSchemas[name] = &tfprotov6.Schema{Block: told.schema()}
		}
	}
	return found, nil
}

func (s server) ValidateProviderConfig(_ context.Context, asked *tfprotov6.ValidateProviderConfigRequest) (*tfprotov6.ValidateProviderConfigResponse, error) {
	return &tfprotov6.ValidateProviderConfigResponse{PreparedConfig: asked.Config}, nil
}

func (s server) ValidateResourceConfig(context.Context, *tfprotov6.ValidateResourceConfigRequest) (*tfprotov6.ValidateResourceConfigResponse, error) {
	return &tfprotov6.ValidateResourceConfigResponse{}, nil
}

func (s server) ValidateDataResourceConfig(context.Context, *tfprotov6.ValidateDataResourceConfigRequest) (*tfprotov6.ValidateDataResourceConfigResponse, error) {
	return &tfprotov6.ValidateDataResourceConfigResponse{}, nil
}

func (s server) ConfigureProvider(context.Context, *tfprotov6.ConfigureProviderRequest) (*tfprotov6.ConfigureProviderResponse, error) {
	return &tfprotov6.ConfigureProviderResponse{}, nil
}

func (s server) UpgradeResourceState(_ context.Context, asked *tfprotov6.UpgradeResourceStateRequest) (*tfprotov6.UpgradeResourceStateResponse, error) {
	kind := s.schemas[asked.TypeName].schema().ValueType()
	value, err := asked.RawState.Unmarshal(kind)
	if err != nil {
		return nil, err
	}
	same, err := tfprotov6.NewDynamicValue(kind, value)
	return &tfprotov6.UpgradeResourceStateResponse{UpgradedState: &same}, err
}

func (s server) StopProvider(context.Context, *tfprotov6.StopProviderRequest) (*tfprotov6.StopProviderResponse, error) {
	return &tfprotov6.StopProviderResponse{}, nil
}

func main() {
	name, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(os.Args[0]), "terraform-provider-"), "_")
	text, err := os.ReadFile(filepath.Join(os.Getenv("PROVIDER_SCHEMAS"), "terraform-"+name+".json"))
	if err != nil {
		panic(err)
	}
	var told struct{ Schemas map[string]block }
	if err := json.Unmarshal(text, &told); err != nil {
		panic(err)
	}
	err = tf6server.Serve("registry.opentofu.org/hashicorp/"+name, func() tfprotov6.ProviderServer {
		return server{schemas: told.Schemas}
	})
	if err != nil {
		panic(err)
	}
}
