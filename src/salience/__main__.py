from salience._cli.app import main

main()
