package auth

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/vm"
	"github.com/expr-lang/expr/vm/runtime"

	"sluice/setting"
)

// expression is a condition in the language of expr-lang/expr, checked against
// the types of scene and compiled when the configuration is loaded.
//
// A run is bounded by what the compiler lets through: few nodes, no loop inside
// a loop, patterns and address ranges that are written out, no function that
// builds long texts or lists. What a loop costs is a list of the claims times a
// text of the request at the worst, and mostScanned bounds that product: some
// tens of milliseconds for a pattern in a loop. A run neither blocks nor keeps anything of the request. Whatever goes
// wrong in it refuses.
type expression struct {
	program *vm.Program
	uses    uint8 // parts of the request that are worth making a text of
	loops   bool
	stages  sync.Pool // *stage
}

// Bounds of an expression.
const (
	longestExpression = 4096    // bytes
	mostNodes         = 500     // of the syntax tree
	mostListed        = 1024    // entries of a list or map in the claims, for expressions that loop
	mostMade          = 1 << 14 // entries of the lists that one run makes, together
	mostScanned       = 1 << 20 // entries of the longest list or map times bytes of any text of the request, for expressions that loop
)

// scene is what an expression sees. Field names are the language.
type scene struct {
	Claims     map[string]any   `expr:"claims"` // of the first identity
	Identity   *caller          `expr:"identity"`
	Identities []*caller        `expr:"identities"` // one for each authenticator of the group
	Request    *asked           `expr:"request"`
	Now        func() time.Time `expr:"now"` // when the request began, UTC
}

// asked is the request. Its texts are copies, made only when the expression
// names them.
type asked struct {
	Method string              `expr:"method"`
	Path   string              `expr:"path"`
	Host   string              `expr:"host"`
	Scheme string              `expr:"scheme"`
	Route  string              `expr:"route"`
	IP     string              `expr:"ip"`
	Header func(string) string `expr:"header"`
	Query  func(string) string `expr:"query"`
	Cookie func(string) string `expr:"cookie"`
}

const (
	usesMethod = 1 << iota
	usesPath
	usesHost
	usesIP
)

var usesOf = map[string]uint8{"method": usesMethod, "path": usesPath, "host": usesHost, "ip": usesIP}

// words are what a name that is not known may have been meant to be.
var words = append([]string{"claims", "identity", "identities", "request", "now", "cidr", "has"}, allowed...)

// allowed are the functions of the language that stay: those whose work and
// result are no larger than what they are given. split is not one of them, for it
// makes long lists of what a client sends; has and contains do what it is
// mostly wanted for.
var allowed = []string{
	"all", "any", "none", "one", "count", "filter", "find",
	"len", "first", "last", "keys", "values", "int", "float", "string", "abs", "min", "max",
	"lower", "upper", "trim", "trimPrefix", "trimSuffix", "hasPrefix", "hasSuffix", "indexOf",
	"date", "duration",
}

// ranges are the address ranges of one call of cidr.
type ranges []netip.Prefix

func options() []expr.Option {
	list := []expr.Option{
		expr.Env(&scene{}), expr.AsBool(), expr.WarnOnAny(), expr.MaxNodes(mostNodes), expr.DisableAllBuiltins(),
		expr.Function("cidr", callCIDR, new(func(string, *ranges) bool)),
		expr.Function("has", callHas, new(func(any, any) bool)),
		expr.Function(listOf, callList, new(func(any) any)),
	}
	for _, name := range allowed {
		list = append(list, expr.EnableBuiltin(name))
	}
	return list
}

// newExpression compiles source. Errors begin with "line:column: ".
func newExpression(source string) (e *expression, err error) {
	if len(source) > longestExpression {
		return nil, fmt.Errorf("1:1: expected an expression of at most %d bytes", longestExpression)
	}
	// A defect of the compiler must not end the process on a reload.
	defer func() {
		if r := recover(); r != nil {
			e, err = nil, fmt.Errorf("1:1: expected an expression, the compiler failed: %v", r)
		}
	}()
	// The rules come first: the compiler's own complaint about what they
	// rewrite would name types that nobody wrote.
	rules := &rules{}
	program, err := expr.Compile(source, append(options(), expr.Patch(written{rules}), expr.Patch(rules))...)
	if rules.broken != nil {
		err = rules.broken.Bind(file.NewSource(source))
	}
	if err != nil {
		return nil, compileError(err)
	}
	e = &expression{program: program, uses: rules.uses, loops: rules.loops}
	e.stages.New = func() any { return newStage() }
	return e, nil
}

func compileError(err error) error {
	line, column, message := 1, 1, err.Error()
	var at *file.Error
	if errors.As(err, &at) {
		line, column, message = max(1, at.Line), at.Column+1, at.Message
	}
	message, _, _ = strings.Cut(message, "\n")
	// The compiler's words for types are Go's.
	message = strings.NewReplacer("type auth.asked", "request", "type auth.caller", "identity", "interface {}", "any value", "no field", "no").Replace(message)
	for begin, known := range map[string][]string{"unknown name ": words, "request has no ": partsOf(asked{}), "identity has no ": partsOf(caller{})} {
		if name, ok := strings.CutPrefix(message, begin); ok {
			if near := setting.Nearest(name, known); near != "" {
				message += ", did you mean " + near + "?"
			}
		}
	}
	if strings.HasPrefix(message, "expected bool, but got ") {
		message += "; compare it with something, such as claims.admin == true"
	}
	return fmt.Errorf("%d:%d: %s", line, column, message)
}

// partsOf lists the names that the struct v has in the language.
func partsOf(v any) (names []string) {
	t := reflect.TypeOf(v)
	for i := range t.NumField() {
		if name := t.Field(i).Tag.Get("expr"); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// rules holds the tree to the bounds, notes what it uses, and makes ready what is
// written out.
type rules struct {
	uses   uint8
	loops  bool
	broken *file.Error // the first
}

func (r *rules) breaks(n ast.Node, format string, args ...any) {
	if r.broken == nil {
		r.broken = &file.Error{Location: n.Location(), Message: fmt.Sprintf(format, args...)}
	}
}

var askedType = reflect.TypeFor[*asked]()

// Visit is called for each node, children first.
func (r *rules) Visit(node *ast.Node) {
	switch n := (*node).(type) {
	case *ast.IdentifierNode:
		if n.Value == "$env" {
			r.breaks(n, "expected a name such as claims or request, got $env")
		}
	case *ast.MemberNode:
		if p, ok := n.Property.(*ast.StringNode); ok {
			r.uses |= usesOf[p.Value]
		} else if n.Node.Type() == askedType {
			r.breaks(n, "expected a part of the request by its name, such as request.path")
		}
	case *ast.BinaryNode:
		if n.Operator == "matches" {
			if _, ok := n.Right.(*ast.StringNode); !ok {
				r.breaks(n.Right, "expected a regular expression that is written out, in quotes")
			}
		}
	case *ast.BuiltinNode:
		r.builtin(n)
	case *ast.CallNode:
		r.call(n)
	}
}

func (r *rules) builtin(n *ast.BuiltinNode) {
	// The parser knows the functions that loop even when they are disabled.
	if !slices.Contains(allowed, n.Name) {
		r.breaks(n, "unknown name %s", n.Name)
	}
	switch n.Name {
	case "date", "duration":
		// date may be told the name of a time zone, which is a file's.
		for _, a := range n.Arguments {
			if _, ok := a.(*ast.StringNode); !ok {
				r.breaks(a, "expected %s of a text that is written out, in quotes", n.Name)
			}
		}
	}
	for i, a := range n.Arguments {
		if p, ok := a.(*ast.PredicateNode); ok {
			r.loops = true
			if over := n.Arguments[0]; i == 1 && over.Type() != nil && over.Type().Kind() == reflect.Interface {
				call := &ast.CallNode{Callee: &ast.IdentifierNode{Value: listOf}, Arguments: []ast.Node{over}}
				call.SetLocation(over.Location())
				call.Callee.SetLocation(over.Location())
				n.Arguments[0] = call
			}
			var inner inner
			ast.Walk(&p.Node, &inner)
			if inner.loop != nil {
				r.breaks(inner.loop, "expected no %s inside %s: one loop at a time; for membership use in, or has(list, x)", inner.loop.Name, n.Name)
			}
		}
	}
}

// inner looks for a loop.
type inner struct{ loop *ast.BuiltinNode }

func (i *inner) Visit(node *ast.Node) {
	if n, ok := (*node).(*ast.BuiltinNode); ok {
		for _, a := range n.Arguments {
			if _, ok := a.(*ast.PredicateNode); ok {
				i.loop = n
			}
		}
	}
}

func (r *rules) call(n *ast.CallNode) {
	callee, ok := n.Callee.(*ast.MemberNode)
	if !ok || callee.Node.Type() != askedType || len(n.Arguments) != 1 {
		return
	}
	p, ok := callee.Property.(*ast.StringNode)
	if !ok {
		return
	}
	name, ok := n.Arguments[0].(*ast.StringNode)
	switch {
	case !ok || name.Value == "":
		r.breaks(n.Arguments[0], "expected a name that is written out, in quotes, such as request.%s(\"x\")", p.Value)
	case p.Value == "header" && !isToken(name.Value):
		r.breaks(name, "expected the name of a header, got %q", name.Value)
	}
}

// written makes the ranges of cidr ready. It is a visitor of its own, before
// rules: the types that rules asks for are known only of a tree without
// mistakes, and cidr as it is written is one.
type written struct{ *rules }

func (w written) Visit(node *ast.Node) {
	n, ok := (*node).(*ast.CallNode)
	if !ok {
		return
	}
	if callee, ok := n.Callee.(*ast.IdentifierNode); !ok || callee.Value != "cidr" {
		return
	}
	if len(n.Arguments) < 2 {
		w.breaks(n, `expected an address and ranges, such as cidr(request.ip, "10.0.0.0/8")`)
		return
	}
	list := ranges{}
	for _, a := range n.Arguments[1:] {
		text, ok := a.(*ast.StringNode)
		if !ok {
			w.breaks(a, "expected an address range that is written out, in quotes")
			return
		}
		prefix, err := parseRange(text.Value)
		if err != nil {
			w.breaks(a, "%v", err)
			return
		}
		list = append(list, prefix)
	}
	made := &ast.ConstantNode{Value: &list}
	made.SetLocation(n.Arguments[1].Location())
	n.Arguments = []ast.Node{n.Arguments[0], made}
}

// callCIDR is cidr: whether an address lies in one of the ranges. What is no
// address is an error, which refuses.
func callCIDR(args ...any) (any, error) {
	text, list := args[0].(string), args[1].(*ranges)
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return nil, errNoAddress
	}
	addr = plain(addr)
	for _, p := range *list {
		if p.Contains(addr) {
			return true, nil
		}
	}
	return false, nil
}

// callHas is has: whether a claim is x or, when it is a list, holds it.
func callHas(args ...any) (any, error) {
	switch list := args[0].(type) {
	case nil:
		return false, nil
	case []string:
		x, ok := args[1].(string)
		return ok && slices.Contains(list, x), nil
	case []any:
		for _, e := range list {
			if runtime.Equal(e, args[1]) {
				return true, nil
			}
		}
		return false, nil
	case string, bool, int, float64:
		return runtime.Equal(list, args[1]), nil
	}
	return nil, errNoList
}

// listOf is put around what a loop goes over when only the claims tell what it is:
// the language would take a text for a list of its bytes. Nobody can write the
// name.
const listOf = "list of"

func callList(args ...any) (any, error) {
	switch args[0].(type) {
	case []any, []string:
		return args[0], nil
	}
	return nil, errNotList
}

var (
	errNotList   = errors.New("no list")
	errNoAddress = errors.New("cidr: no address")
	errNoList    = errors.New("has: neither a list nor a value")
	errTooLong   = errors.New("too long a text for a loop")
	errRepeated  = errors.New("a cookie or query parameter that comes more than once")
	errEscape    = errors.New("a broken escape in the query")
)

// stage is a machine with its scene: they are used again and again, by one
// request at a time.
type stage struct {
	vm      vm.VM
	scene   scene
	asked   asked
	callers [MostProven]*caller
	request *Request
	longest int // bytes of a text of the request that may be looked at
}

func newStage() *stage {
	s := &stage{}
	s.vm.MemoryBudget = mostMade
	s.scene.Request = &s.asked
	s.scene.Now = func() time.Time { return s.request.Now.UTC() }
	s.asked.Header, s.asked.Query, s.asked.Cookie = s.header, s.query, s.cookie
	return s
}

// text hands out a text of the request, within the bound.
func (s *stage) text(b []byte) string {
	if len(b) > s.longest {
		panic(errTooLong)
	}
	return string(b)
}

// header is the value of a field, of several those joined by ", " (RFC 9110
// 5.3), so that none is hidden behind another.
func (s *stage) header(name string) string {
	value, count := s.request.Header(name)
	if count < 2 {
		return s.text(value)
	}
	var all []byte
	for i := range s.request.Head.Fields {
		if f := &s.request.Head.Fields[i]; isName(f.Name, name) {
			all = append(append(all, f.Value...), ", "...)
		}
	}
	return s.text(all[:len(all)-2])
}

// cookie is the value of a cookie. Of two, the target might take the other one:
// that is an error, which refuses.
func (s *stage) cookie(name string) string {
	value, count := s.request.Cookie(name)
	if count > 1 {
		panic(errRepeated)
	}
	return s.text(value)
}

// query is the value of a query parameter without its escapes, which its name
// may have too. Two are an error, as with cookies.
func (s *stage) query(name string) string {
	value, count := "", 0
	for list := s.text(s.request.Head.Query); list != ""; {
		var pair string
		pair, list, _ = strings.Cut(list, "&")
		k, v, _ := strings.Cut(pair, "=")
		if k, err := url.QueryUnescape(k); err != nil || k != name {
			continue
		}
		v, err := url.QueryUnescape(v)
		if err != nil {
			panic(errEscape)
		}
		value, count = v, count+1
	}
	if count > 1 {
		panic(errRepeated)
	}
	return value
}

// holds runs e.
func (e *expression) holds(r *Request, proof *Proof) (ok bool, reason string) {
	s := e.stages.Get().(*stage)
	defer e.leave(s)
	s.request = r
	s.scene.Identity, s.scene.Claims = nobody, nil
	entries := 1
	for i, id := range proof.By[:proof.N] {
		c := callerOf(id)
		if e.loops && c.longest > mostListed {
			return false, ReasonExpression + ": a claim has more than 1024 entries"
		}
		entries = max(entries, c.longest)
		s.callers[i] = c
		if i == 0 {
			s.scene.Identity, s.scene.Claims = c, c.Claims
		}
	}
	s.scene.Identities = s.callers[:proof.N]
	s.longest = math.MaxInt
	if e.loops {
		s.longest = mostScanned / entries
		if e.uses&usesPath != 0 && len(r.Path) > s.longest || e.uses&usesHost != 0 && len(r.Head.Host) > s.longest || e.uses&usesMethod != 0 && len(r.Head.Method) > s.longest {
			return false, ReasonExpression + ": " + errTooLong.Error()
		}
	}
	s.asked.Scheme, s.asked.Route = r.Scheme, r.Route
	if e.uses&usesMethod != 0 {
		s.asked.Method = string(r.Head.Method)
	}
	if e.uses&usesPath != 0 {
		s.asked.Path = string(r.Path)
	}
	if e.uses&usesHost != 0 {
		s.asked.Host = hostName(r.Head.Host)
	}
	if e.uses&usesIP != 0 && r.Caller.IsValid() {
		s.asked.IP = plain(r.Caller).String()
	}
	result, err := s.vm.Run(e.program, &s.scene)
	if err != nil {
		return false, ReasonExpression + ": " + runError(err)
	}
	if yes, _ := result.(bool); yes {
		return true, ""
	}
	return false, ReasonExpression + ": false"
}

// leave gives s back without anything of the request.
func (e *expression) leave(s *stage) {
	clear(s.vm.Stack[:cap(s.vm.Stack)])
	clear(s.vm.Variables)
	clear(s.callers[:])
	s.request, s.scene.Identity, s.scene.Identities, s.scene.Claims = nil, nil, nil, nil
	a := &s.asked
	a.Method, a.Path, a.Host, a.Scheme, a.Route, a.IP = "", "", "", "", "", ""
	e.stages.Put(s)
}

// runError says where an expression broke off, and how as far as that is known to
// hold no value of the request: a header may be a credential.
func runError(err error) string {
	var at *file.Error
	if !errors.As(err, &at) {
		return "broke off"
	}
	why := ""
	for _, known := range []error{errNotList, errNoAddress, errNoList, errTooLong, errRepeated, errEscape} {
		if errors.Is(err, known) {
			why = known.Error()
		}
	}
	for begin, say := range map[string]string{
		"cannot fetch":           "no such member",
		"index out of range":     "no such entry",
		"interface conversion":   "a value of another type",
		"invalid operation":      "values that do not go together",
		"invalid argument":       "a value of another type",
		`operator "in"`:          "no list",
		"reflect: call of":       "a value of another type",
		"memory budget exceeded": "too much to do",
		"cannot slice":           "nothing that can be cut",
		"runtime error: integer": "a division by zero",
		"runtime error: invalid": "a value that is missing",
	} {
		if why == "" && strings.HasPrefix(at.Message, begin) {
			why = say
		}
	}
	place := fmt.Sprintf("broke off at %d:%d", max(1, at.Line), at.Column+1)
	if why == "" {
		return place
	}
	return place + ": " + why
}

// hostName is a host in lower case, without port and the last dot.
func hostName(host []byte) string {
	h := host
	if len(h) > 0 && h[0] == '[' {
		if i := slices.Index(h, ']'); i > 0 {
			h = h[1:i]
		}
	} else if i := slices.Index(h, ':'); i >= 0 {
		h = h[:i]
	}
	if n := len(h); n > 1 && h[n-1] == '.' {
		h = h[:n-1]
	}
	return strings.ToLower(string(h))
}
